"""What `dtrain train` trains: its models, those of a file of your own, and the run of an image classifier."""
