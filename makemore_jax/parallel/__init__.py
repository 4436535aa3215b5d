"""Train, evaluate and sample on several devices and in several processes."""
