"""What activity-core and the state hub both stand on; it imports neither of them."""
