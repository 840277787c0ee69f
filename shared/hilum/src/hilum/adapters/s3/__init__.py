"""Instances in an S3 bucket, with a local cache of bounded size for those who read pixels."""
