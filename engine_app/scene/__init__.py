"""What is seen of a document, as arrays, and what fingers, mouse and keys mean there. Knows no Kivy."""
