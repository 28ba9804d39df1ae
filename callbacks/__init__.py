"""Lightning callbacks: seeding, watching, drawing."""
