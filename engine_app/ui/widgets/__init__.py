"""The window's own controls: at least 48 dp, for finger, mouse and keyboard alike, in both themes.

Every widget is given a Look when it is made; a new look makes new widgets.
"""
