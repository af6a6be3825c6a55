"""Start the grounding node: ros2 launch egm_ros grounding.launch.py bundle_path:=DIR image:=/camera/image_raw.

depth:=/camera/aligned_depth_to_color/image_raw camera_info:=/camera/color/camera_info    boxes in metres, markers, TF
cameras:=left,right image:=/left/image_raw,/right/image_raw                               several cameras, one model
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = {
    "bundle_path": ("", "The model: bundle, checkpoint, hub id or server; empty for the shipped EGM-Nano."),
    "params_file": (
        PathJoinSubstitution([FindPackageShare("egm_ros"), "config", "grounding.yaml"]),
        "Parameter file; arguments given here win over it.",
    ),
    "namespace": ("", "Namespace of the node."),
    "cameras": (
        "",
        "Names of several cameras that share the model, with commas between; empty for one without a name.",
    ),
    "image": (
        "image",
        "Image topic (with image_transport:=compressed, its base name); one per camera, with commas between.",
    ),
    "command": ("command", "Topic of the sentences, std_msgs/String; one per camera, with commas between."),
    "image_transport": ("raw", "raw or compressed."),
    "depth": ("", "Depth image registered to the image: boxes in metres, too; one per camera, with commas between."),
    "camera_info": ("camera_info", "Of the image, for depth; one per camera, with commas between."),
    "autostart": ("true", "Configure and activate at start-up; false leaves that to a lifecycle manager."),
    "shared_memory": ("true", "Use the Fast DDS profile that carries raw camera frames; set it for the camera, too."),
    "rviz": ("false", "Start RViz with this package's layout, in the node's namespace."),
}


def typed(value: str, kind: type) -> ParameterValue:
    """A bundle directory called 2024 or true must stay a string."""
    return ParameterValue(value, value_type=kind)


def start(context) -> list:
    """The processes, from the arguments' values."""
    values = context.launch_configurations
    cameras = [name.strip() for name in values["cameras"].split(",")]

    def topics(name: str) -> dict[str, str]:
        """Relative topic of each camera -> what to take instead."""
        given = [topic.strip() for topic in values[name].split(",")]
        own = [f"{camera}/{name}" if camera else name for camera in cameras]
        if len(given) < len(cameras):
            given = own
        return dict(zip(own, given, strict=False))

    node = LifecycleNode(
        package="egm_ros",
        executable="grounding_node",
        name="grounding_node",
        namespace=values["namespace"],
        output="screen",
        parameters=[
            values["params_file"],
            {
                "bundle_path": typed(values["bundle_path"], str),
                "cameras": typed(values["cameras"], str),
                "image_transport": typed(values["image_transport"], str),
                "autostart": values["autostart"].lower() == "true",
            },
        ],
        remappings=[*topics("image").items(), *topics("command").items()],
    )
    started = [node]
    if values["depth"]:
        for camera, depth, info in zip(cameras, topics("depth").values(), topics("camera_info").values(), strict=True):
            started.append(
                Node(
                    package="egm_ros",
                    executable="depth_locator",
                    name="depth_locator",
                    namespace="/".join(part for part in (values["namespace"], camera) if part),
                    output="screen",
                    remappings=[("depth", depth), ("camera_info", info)],
                )
            )
    if values["rviz"].lower() == "true":
        layout = PathJoinSubstitution([FindPackageShare("egm_ros"), "rviz", "grounding.rviz"])
        started.append(
            Node(
                package="rviz2",
                executable="rviz2",
                name="rviz2",
                namespace=values["namespace"],
                output="screen",
                arguments=["-d", layout],
                remappings=[*topics("image").items()],
            )
        )
    return started


def generate_launch_description() -> LaunchDescription:
    profile = PathJoinSubstitution([FindPackageShare("egm_ros"), "config", "fastdds_shared_memory.xml"])
    use_profile = IfCondition(LaunchConfiguration("shared_memory"))
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=text)
                for name, (value, text) in ARGUMENTS.items()
            ),
            # Fast DDS 2.x (Humble, Jazzy) reads the first name, 3.x (Kilted) the second.
            SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", profile, condition=use_profile),
            SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", profile, condition=use_profile),
            OpaqueFunction(function=start),
        ]
    )
