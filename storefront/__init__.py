"""Show: pages, Blossom, nsite, Zapstore (floor 4). Still to come; its place in the order of imports is kept."""
