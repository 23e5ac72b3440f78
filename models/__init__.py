"""The networks of both papers. A network gets its head as an argument and knows no loss. recipes.NETWORKS has them."""
