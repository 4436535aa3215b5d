"""The networks of the lectures, which see a fixed window of characters; batch normalization."""
