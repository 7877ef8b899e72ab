"""What the editor edits: a graph with its places on the screen, typed edits, history. Never draws or waits.

The document is ``backend.graph.Graph`` itself. Where a node is and how it looks is kept in the node's
``extra["view"]``; groups and notes in the ``view`` of the graph, or of the body they are in. So a file that
the editor saves is the file that ``cyxwiz train`` reads. Only ``files`` and ``recovery`` touch a disk.
"""
