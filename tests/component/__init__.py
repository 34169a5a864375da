"""One service with its real stores."""
