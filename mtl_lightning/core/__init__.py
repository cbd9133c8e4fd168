"""The part that knows Lightning's training loop."""
