"""What is known of one order, for whoever shows it: the command in the terminal and the pages in the browser."""
