"""From the records of finished runs to tables, statistics and figures; without torch."""
