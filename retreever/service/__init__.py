"""The Ray Serve application: HTTP, versions of the model at work, and the page."""
