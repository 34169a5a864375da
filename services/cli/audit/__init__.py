"""Whether orders, stock, events and mails agree."""
