"""The networks of both papers. A network is given its head and knows no loss; recipes.NETWORKS names it."""
