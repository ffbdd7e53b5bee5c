"""Trees made by clustering, not learned from pairs: HIER-KMEANS, HIER-GMM and RAPTOR."""
