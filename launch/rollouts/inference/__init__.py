"""Where actions are computed: in the actor, or by inference workers."""
