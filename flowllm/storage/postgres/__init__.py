"""The store on PostgreSQL, for processes on many machines."""
