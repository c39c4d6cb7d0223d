"""What is in force, and from where: files become checked definitions, and ids get their holders."""
