"""The mail server of a development machine: takes every mail, sends none on, and shows them on a page."""
