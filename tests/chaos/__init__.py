"""The whole shop while parts of it are killed, stopped or cut off; run by make chaos."""
