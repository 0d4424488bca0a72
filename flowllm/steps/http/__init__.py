"""`http` steps: requests to servers of anybody's."""
