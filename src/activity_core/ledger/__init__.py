"""The durable record: every slot's row, every definition's versions, every decision's inputs."""
