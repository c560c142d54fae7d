"""The student network and the losses."""
