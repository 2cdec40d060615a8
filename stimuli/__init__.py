"""What is shown: every picture knows its size in degrees of visual angle."""
