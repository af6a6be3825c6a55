"""A request's time: the latency model, the plan made with it, and the budget a reply is given."""
