"""What happens next: a pure state machine, and the one loop that carries its commands out."""
