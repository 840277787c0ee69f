"""What tests of every service share: external programs, processes, fakes of the ports."""
