"""What all tables and figures share; makes those of any run again."""
