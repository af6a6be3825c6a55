"""Grounding node and a recorded camera: ros2 launch egm_ros recorded_stream.launch.py bundle_path:=DIR bag:=BAG.

The bag's compressed images (topic `bag_image`) go to the node, for ever, with the time of playing in their headers.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = {
    "bundle_path": ("", "The model: bundle, checkpoint, hub id or server; empty for the shipped EGM-Nano."),
    "namespace": ("", "Namespace of the node."),
    "bag": ("", "Folder of the bag, or an .mcap file; rosbags must be installed (pip install rosbags)."),
    "bag_image": ("/camera/image", "Base name of the image topic in the bag; its compressed images are played."),
    "rate": ("1.0", "Times as fast as recorded."),
}


def generate_launch_description() -> LaunchDescription:
    node = PathJoinSubstitution([FindPackageShare("egm_ros"), "launch", "grounding.launch.py"])
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=text)
                for name, (value, text) in ARGUMENTS.items()
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(node),
                launch_arguments={
                    "bundle_path": LaunchConfiguration("bundle_path"),
                    "namespace": LaunchConfiguration("namespace"),
                    "image": LaunchConfiguration("bag_image"),
                    "image_transport": "compressed",
                }.items(),
            ),
            Node(
                package="egm_ros",
                executable="replay_bag",
                name="replay_bag",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                arguments=[
                    LaunchConfiguration("bag"),
                    "--loops",
                    "0",
                    "--restamp",
                    "--rate",
                    LaunchConfiguration("rate"),
                ],
                remappings=[],
            ),
        ]
    )
