"""What happens around a call: response cache, single flight, limiter, attempt record, wire."""
