"""The HTTP interface, its metrics, and the page. Ray and models are not known here."""
