"""What the shop is measured beside."""
