"""What the roles do, apart from how requests reach them."""
