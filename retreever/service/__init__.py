"""The Ray Serve application: HTTP interface, page, running versions, and the controller that swaps them."""
