"""What the services need from outside, as Protocols. Each has one behaviour suite, run against every adapter."""
