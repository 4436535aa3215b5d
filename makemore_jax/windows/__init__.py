"""The networks of the lectures, which read a fixed window of characters; batch normalization."""
