"""The Engine's window. Kivy is imported only by modules that draw; ``kivy_setup`` runs before any of them."""
