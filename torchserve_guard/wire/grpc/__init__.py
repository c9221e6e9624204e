"""What is being asked over gRPC: its methods as the same operations as HTTP's, its messages and its metadata."""
