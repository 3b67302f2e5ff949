"""`scribed check`: what is examined, and what each finding says."""
