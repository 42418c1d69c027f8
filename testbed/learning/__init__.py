"""What is learned: gradients and evaluations of flat float32 vectors, on this machine's processor or GPU.

learner.py says what a learner is and builds one. networks.py and device.py are the door to torch.
"""
