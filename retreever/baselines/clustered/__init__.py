"""Trees clustered from passages, not learned from pairs: HIER-KMEANS, HIER-GMM and RAPTOR."""
