"""What happens around a call: memo, single flight, limiter, attempt record, wire."""
