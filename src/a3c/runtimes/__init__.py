"""Who runs the actor-learners: this process in turn, or processes of their own."""
