"""What a person reads who got something wrong: a table over all commands, and files made to do harm."""
