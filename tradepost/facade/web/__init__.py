"""HTTP itself: sockets, requests, answers, problems, and what describes them."""
