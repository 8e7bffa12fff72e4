"""What the prompt of an image asks for."""
