"""One local port in front of models here and at peers: who answers a request, and what nobody may see.

Pure: ``balance`` ``health`` ``retry`` (which endpoint, and whether another one), ``wanted`` (what a request
asks for), ``allowed`` (which peers may see it), ``union`` ``measures`` (what is told about all models).
Shells: ``pool`` ``forward`` ``connection`` ``application`` ``server``.
"""
