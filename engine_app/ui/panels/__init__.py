"""The parts of the window. Each shows the desk or a session, and asks them for changes; none decides."""
