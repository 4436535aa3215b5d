"""One long text: random crops of it as training data, and text of any length as samples."""
