"""Models that answer over HTTP: protocols, batching, metrics, the page. Runs inside a worker process."""
