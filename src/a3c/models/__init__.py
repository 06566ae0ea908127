"""Networks: torsos, heads, and the actor-critic they make up."""
