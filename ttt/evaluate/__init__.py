"""What a trained model reaches."""
